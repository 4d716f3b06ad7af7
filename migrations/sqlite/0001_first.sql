-- Calls. Ended ones stay ten minutes as tombstones: their key still answers repeats.
create table calls (
    id blob primary key,
    key blob not null unique,
    owner integer not null,
    epoch integer not null,
    rev integer not null,
    ended_at integer,
    record blob not null
) without rowid;
create index calls_owner on calls (owner);

-- Call detail records. One writer, so the sequence has no gaps that fill later. `extensions` is a text between spaces.
create table cdrs (
    sequence integer primary key autoincrement,
    id text not null unique,
    created_at integer not null,
    extensions text not null,
    disposition text not null,
    document text not null
);
create index cdrs_created_at on cdrs (created_at);

-- Users. The document holds no password, only what digest needs.
create table users (
    extension text primary key,
    document text not null
) without rowid;

-- Change feed: the last change of each user, removed ones too. A replaced row gets a new position.
create table changes (
    position integer primary key autoincrement,
    extension text not null unique
);

-- One row a user with all its bindings.
create table bindings (
    extension text primary key,
    document blob not null
) without rowid;

-- Small things that the cluster agrees on.
create table settings (
    name text primary key,
    value text not null
) without rowid;

-- Who is alive and where.
create table nodes (
    name text primary key,
    incarnation integer not null,
    mode text not null,
    control text not null,
    seen_at integer not null,
    view text not null
) without rowid;
