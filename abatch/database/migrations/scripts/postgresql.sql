-- abatch: creates its tables{into}, revision {target}.
-- Run:  psql -v ON_ERROR_STOP=1 -d DATABASE -f init.sql
-- All of it happens, in one transaction, or nothing. Run a second time, it changes nothing and says so.
begin;

do $$
declare
    installed varchar(32) := 'none';
begin
    if to_regclass('{prefix}abatch_version') is not null then
        installed := coalesce((select version_num from {prefix}abatch_version), 'none');
    end if;
    if installed = '{target}' then
        raise exception 'abatch: revision % is installed already; nothing to do.', installed;
    end if;
    if installed <> 'none' then
        raise exception 'abatch: found revision %, expected none: another commit of abatch made it, before its first release, and it cannot be upgraded. Name an empty schema in the config and print this script again.', installed;
    end if;{create_schema}
end $$;

{body}

commit;
