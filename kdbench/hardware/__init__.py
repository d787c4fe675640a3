"""What the machine is and how it computes: numerics, clock, memory, energy, compiled networks. Knows no suite."""
