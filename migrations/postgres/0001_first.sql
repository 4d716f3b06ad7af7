-- Calls. Three writes a plain call, so updates must be HOT (half of each page stays free, no index on what changes) and a
-- record of 1.5 kB must stay in the row. Ended calls stay ten minutes as tombstones: their key still answers repeats.
create table calls (
    id bytea primary key,
    key bytea not null unique,
    owner bigint not null,
    epoch bigint not null,
    rev bigint not null,
    ended_at bigint,
    record bytea not null
) with (fillfactor = 50, toast_tuple_target = 8160);
create index calls_owner on calls (owner);

-- Call detail records. The sequence is made of the transaction's id (cdr_sequence) and a row number, and readers see only what
-- is below the oldest open transaction: so who polls by `sequence > last` misses no late commit.
create table cdrs (
    sequence bigint primary key,
    id text not null unique,
    created_at bigint not null,
    extensions text[] not null,
    disposition text not null,
    document text not null
);
create index cdrs_created_at on cdrs (created_at);
create index cdrs_extensions on cdrs using gin (extensions);

-- Users. The document holds no password, only what digest needs.
create table users (
    extension text primary key,
    document text not null
);

-- Change feed: in which transaction a user last changed. Read below the oldest open transaction. One row a user, removed
-- ones too, so it grows with the users and not with their changes.
create table changes (
    extension text primary key,
    transaction_id xid8 not null default pg_current_xact_id()
);
create index changes_transaction on changes (transaction_id);

-- One row a user with all its bindings: a REGISTER is one HOT update.
create table bindings (
    extension text primary key,
    document bytea not null
) with (fillfactor = 50);

-- Small things that the cluster agrees on.
create table settings (
    name text primary key,
    value text not null
);

-- Where the sequences of a transaction's CDRs begin. Transaction ids begin anew on a server that a dump is restored on: the
-- offset, set when a node finds it so, keeps sequences rising.
create function cdr_sequence(xid8) returns bigint language sql stable as $$
    select ($1::text::bigint + coalesce(
        (select value::bigint from settings where name = 'cdr_sequence_offset'), 0)) * 65536
$$;

-- Who is alive and where.
create table nodes (
    name text primary key,
    incarnation bigint not null,
    mode text not null,
    control text[] not null,
    seen_at bigint not null,
    view text not null
) with (fillfactor = 50);
