"""Does the work: the Celery application, and the process that carries out one job. It may import anything."""
