"""What the operating system and the interpreter say and do.

Each file is one facility and a door of its own: cores and memory (`limits`), files of the kernel
(`kernel_files`), sections that no signal cuts in two (`interrupts`), forks and locks (`forks`), late
imports (`imports`), calls of the user's code from threads of the library (`user_code`), threads of BLAS
(`blas`), the leak guard's record (`witness`).
"""
