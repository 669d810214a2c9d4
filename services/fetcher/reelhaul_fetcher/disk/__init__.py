"""Local disk: work directories, stored cookies and the egress usage log."""
