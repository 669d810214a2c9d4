-- POSTGRES_DB is the database of jobs.
CREATE DATABASE storage;
