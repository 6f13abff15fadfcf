"""Published settings, one TOML file each; the first line says which."""
