"""Kernel templates: each module lowers one class of groups; `select` tries the special ones before the general one."""
