"""The areas of the jobs service, each put together by one function that `app.py` calls."""
