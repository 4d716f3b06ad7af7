-- What happened, for those who watch: one row a commit with all its events (a JSON array without its brackets), written by the
-- statement that writes the state they tell of. An event's id is the sequence (as of cdrs) plus its place in the row; readers see
-- only what is below the oldest open transaction, so ids only rise and no late commit is missed. Old rows are swept.
create table events (
    sequence bigint primary key,
    written_at bigint not null,
    document text not null
) with (toast_tuple_target = 8160);
