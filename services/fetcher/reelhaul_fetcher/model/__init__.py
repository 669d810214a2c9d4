"""Model: pure rules of a fetch: values, limits, selection and packaging."""
