"""The parts of ``bench watch``: who publishes, who watches, and what is told of both."""
