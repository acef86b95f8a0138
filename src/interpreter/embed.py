"""Write a text file as a C array: embed.py INPUT OUTPUT NAME."""

import sys

data = open(sys.argv[1], "rb").read()
name = sys.argv[3]
rows = [",".join(str(byte) for byte in data[at : at + 24]) for at in range(0, len(data), 24)]
with open(sys.argv[2], "w") as out:
    out.write("#include <stddef.h>\n\n")
    out.write(f"extern const char {name}[];\nextern const size_t {name}_size;\n\n")
    out.write(f"const char {name}[] = {{\n" + ",\n".join(rows) + "\n};\n")
    out.write(f"const size_t {name}_size = sizeof({name});\n")
