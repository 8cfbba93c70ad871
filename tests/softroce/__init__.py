"""Tests on a real verbs device: the Linux kernel's Soft-RoCE driver, in virtual machines of their own."""
