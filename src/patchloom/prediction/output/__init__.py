"""What a run writes: outputs, their claim and the ledger of finished blocks."""
