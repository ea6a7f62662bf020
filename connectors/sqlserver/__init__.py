"""SQL Server through its change data capture (CDC)."""
