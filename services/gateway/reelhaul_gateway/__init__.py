"""The gateway: serves every annotated RPC of the suite as REST/JSON over HTTP."""
