-- abatch: creates its tables{into}, revision {target}.
-- Run:  sqlcmd -b -S SERVER -d DATABASE -i init.sql
-- All of it happens, in one transaction, or nothing. Run a second time, it changes nothing and says so.
set ansi_nulls on;
set ansi_padding on;
set ansi_warnings on;
set arithabort on;
set concat_null_yields_null on;
set implicit_transactions off;
set nocount on;
set numeric_roundabort off;
set quoted_identifier on;
set xact_abort on;
GO

-- Without an open transaction, all batches but this one do nothing.
declare @found varchar(32) = 'none';
if object_id(N'{prefix}abatch_version', N'U') is not null
    select @found = version_num from {prefix}abatch_version;
if @found = '{target}'
begin
    print N'abatch: revision {target} is installed already; nothing to do.';
    return;
end
if @found <> 'none'
begin
    raiserror(N'abatch: found revision %s, expected none: another commit of abatch made it, before its first release, and it cannot be upgraded. Name an empty schema in the config and print this script again.', 16, 1, @found);
    return;
end
begin transaction;
if schema_id(N'{schema}') is null
    exec(N'create schema {quoted_schema}');
GO

{body}
GO

if @@trancount = 0 return;
commit transaction;
print N'abatch: revision {target} is installed.';
GO
