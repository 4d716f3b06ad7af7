-- What one node of the cluster does at a time, for as long as it renews it by the store's clock.
create table duties (
    name text primary key,
    holder integer not null,
    until integer not null
) without rowid;

-- Who is told of events by HTTP. The secret is sealed under the cluster's key; events after the cursor are not told yet.
create table webhooks (
    id text primary key,
    document text not null,
    secret blob not null,
    cursor integer not null
) without rowid;

-- Events before the cursor that a receiver did not take: to be tried again when they are due, or given up (dead).
create table deliveries (
    webhook text not null references webhooks on delete cascade,
    event integer not null,
    document text not null,
    due_at integer,
    primary key (webhook, event)
) without rowid;
