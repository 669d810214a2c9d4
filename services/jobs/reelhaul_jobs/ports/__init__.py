"""What jobs needs of the world: rows that survive, a bus, two neighbours, a clock."""
