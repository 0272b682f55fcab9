"""What SQLite and memory keep: tables, and the statements of the store's contract over them, each inside a transaction."""
