-- What was not as it should be in a call, to find calls by: a text of words between spaces.
alter table cdrs add column flags text not null default '';
