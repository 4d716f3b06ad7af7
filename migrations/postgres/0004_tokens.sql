-- Tokens of the API beside the admin token. The token itself is shown once and kept nowhere.
create table tokens (
    id text primary key,
    name text not null,
    role text not null,
    hash bytea not null unique,
    created_at bigint not null,
    last_used_at bigint
);

-- Who changed what by the API. Old rows are swept.
create table audit (
    sequence bigint generated always as identity primary key,
    at bigint not null,
    document text not null
);
