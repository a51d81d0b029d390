"""Where the events of a live stream go: lines, clips, webhooks, MQTT, and a page. Each is an `Observer` of the runtime.

An output never makes the stream wait: it queues what it is told, and its own thread does the slow part.
"""
