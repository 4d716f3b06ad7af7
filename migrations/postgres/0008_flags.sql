-- What was not as it should be in a call, to find calls by.
alter table cdrs add column flags text[] not null default '{}';
create index cdrs_flags on cdrs using gin (flags) where flags <> '{}';
