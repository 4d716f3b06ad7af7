-- Tokens of the API beside the admin token. The token itself is shown once and kept nowhere.
create table tokens (
    id text primary key,
    name text not null,
    role text not null,
    hash blob not null unique,
    created_at integer not null,
    last_used_at integer
) without rowid;

-- Who changed what by the API. Old rows are swept.
create table audit (
    sequence integer primary key autoincrement,
    at integer not null,
    document text not null
);
