"""The names of all settings; tests remove these variables from the environment."""

from cli.all_settings import ALL_SETTINGS

SETTING_NAMES = [name.upper() for settings in ALL_SETTINGS for name in settings.model_fields]
