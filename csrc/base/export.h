// What the kernel library shows to the Python module and to other programs; everything else in it is hidden.
#pragma once

#define LAMINA_EXPORT __attribute__((visibility("default")))
