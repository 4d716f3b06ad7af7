-- What happened, for those who watch: one row an event, written by the transaction that writes the state it tells of. One writer,
-- so the sequence is the event's id. A journal keeps those of calls until the database has them. Old rows are swept.
create table events (
    sequence integer primary key autoincrement,
    call blob,
    rev integer not null,
    written_at integer not null,
    document text not null
);
