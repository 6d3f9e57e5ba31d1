"""For operators: publish, inspect, replay."""
