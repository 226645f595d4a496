/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads the library given as argument, uses it, closes it, and loads it again: its threads outlive the
 * close, so it stays where it is.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "dwcp.h"

/* ISO C has no conversion from what dlsym gives to a function; POSIX says that they have one form. */
#define LOAD(library, name, function)                                                              \
    do {                                                                                           \
        void *found = dlsym(library, name);                                                        \
        if (found == NULL) {                                                                       \
            fprintf(stderr, "%s\n", dlerror());                                                    \
            return 2;                                                                              \
        }                                                                                          \
        memcpy(&(function), &found, sizeof found);                                                 \
    } while (0)

int main(int argc, char **argv)
{
    for (int i = 0; i < 3; i++) {
        uint32_t (*version)(void);
        void (*init)(dwcp_client_options *, size_t);
        int32_t (*connect)(const dwcp_client_options *, dwcp_client **, dwcp_error **);
        void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
        if (library == NULL) {
            fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "which library?");
            return 1;
        }
        LOAD(library, "dwcp_abi_version", version);
        LOAD(library, "dwcp_client_options_init", init);
        LOAD(library, "dwcp_client_connect", connect);
        if (version() != DWCP_ABI_VERSION)
            return 3;
        /* Starts the threads; there is nobody to connect to. */
        dwcp_client_options options;
        dwcp_client *client = NULL;
        init(&options, sizeof options);
        options.address = "unix:/nowhere/at/all";
        options.retry_attempts = 0;
        if (connect(&options, &client, NULL) != DWCP_ERR_CONNECTION || client != NULL)
            return 4;
        if (dlclose(library) != 0)
            return 5;
    }
    printf("loaded three times\n");
    return 0;
}
