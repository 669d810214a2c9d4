"""Binding: one google.api.http rule compiled into a request reader and a response writer."""
