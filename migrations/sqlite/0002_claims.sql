-- How many nodes took a call over since one saved it last. Who reads the record and lives saves it; a record that kills its
-- readers is known by this number.
alter table calls add column claims integer not null default 0;
