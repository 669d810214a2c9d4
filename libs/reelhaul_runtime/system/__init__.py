"""SystemService: the health and the capabilities of the suite, as the gateway and jobs report them."""
