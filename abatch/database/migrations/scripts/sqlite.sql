-- abatch: creates its tables{into}, revision {target}.
-- Run:  sqlite3 -bail FILE < init.sql
-- All of it happens, in one transaction, or nothing: run a second time, it stops at a table that is there already.
pragma journal_mode = wal;

begin immediate;

{body}

commit;
