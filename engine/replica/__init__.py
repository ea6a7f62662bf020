"""The DuckDB replica: the only package that imports duckdb."""
