"""Program → Proof. Knows a Program and its Spec, and nobody who makes one."""
