-- What a POST with an Idempotency-Key was answered, by token and key. The answer is sealed under the cluster's key, for
-- it may hold a password; none: it is being made, by the run of that number. Old rows are swept.
create table answers (
    token text not null,
    key text not null,
    asked blob not null,
    run integer not null,
    at integer not null,
    answer blob,
    primary key (token, key)
) without rowid;
create index answers_at on answers (at);
