"""PostgreSQL: logical decoding through pgoutput."""
