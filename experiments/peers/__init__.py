"""Libraries that no one here wrote, held beside this one."""
