"""What the jobs service needs from outside: stores, the bus, other services, a clock."""
