"""The names of all settings, for tests that must not see any of them."""

from cli.all_settings import ALL_SETTINGS

SETTING_NAMES = [name.upper() for settings in ALL_SETTINGS for name in settings.model_fields]
