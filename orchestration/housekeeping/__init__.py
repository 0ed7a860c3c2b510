"""Scheduled jobs that embed no course, and alerts.

The jobs are off until an operator switches them on; alerts are on if ALERT_URL is set.
"""
