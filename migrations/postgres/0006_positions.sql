-- How far a duty is, whoever has it. None: nobody had it yet.
alter table duties add column position bigint;
