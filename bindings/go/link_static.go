//go:build !dwcp_pkgconfig

package dwcp

// The archive that the project's build command puts there.

// #cgo linux,amd64 LDFLAGS: ${SRCDIR}/lib/linux_amd64/libdwcp.a -lm -ldl -lpthread
import "C"
