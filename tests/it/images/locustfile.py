"""Asks for the front page, in the words of every version of Locust."""

import gevent

# The run time counts from when gevent last looked at the clock: before Locust's own imports, which
# take seconds on a machine with other work.
gevent.get_hub().loop.update_now()

try:
    from locust import HttpUser, constant, task

    class Visitor(HttpUser):
        wait_time = constant(0.1)

        @task
        def front_page(self):
            self.client.get("/")

except ImportError:
    from locust import HttpLocust, TaskSet, task

    class Visit(TaskSet):
        @task
        def front_page(self):
            self.client.get("/")

    class Visitor(HttpLocust):
        task_set = Visit
        min_wait = 100
        max_wait = 100
