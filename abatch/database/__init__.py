"""The door to SQL: connections, faults, reading, tables, migrations."""
