"""What people look at: terminal tables, JSON documents, charts."""
