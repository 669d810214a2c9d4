"""Gateway: the JSON door; serves every annotated RPC of the suite over HTTP."""
