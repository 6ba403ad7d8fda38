"""What people read: reports, cards, lineage."""
