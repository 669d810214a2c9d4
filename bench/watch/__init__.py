"""The parts of ``bench watch``: who publishes, who watches, and what is told of both."""

#: The method's path.
WATCH_JOB = "/reelhaul.jobs.v1.JobService/WatchJob"
