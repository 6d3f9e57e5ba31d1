"""What is kept: documents, in memory, in SQLite, or in Cosmos DB."""
