package dwcp

// #include <stdlib.h>
// #include "dwcp.h"
import "C"

import (
	"math"
	"time"
	"unsafe"
)

// options are a config for the library, until they are freed.
type options struct {
	c     *C.dwcp_client_options
	texts []*C.char
}

// newOptions takes a config that was checked.
func newOptions(config *ClientConfig) *options {
	size := C.size_t(unsafe.Sizeof(C.dwcp_client_options{}))
	o := &options{c: (*C.dwcp_client_options)(C.calloc(1, size))}
	C.dwcp_client_options_init(o.c, size)
	o.c.address = o.text(config.Address)
	o.c.port = C.uint16_t(config.Port)
	o.c.api_key = o.text(config.APIKey)
	o.c.tls_enabled = C.bool(config.TLSEnabled)
	o.c.ca_file = o.text(config.CAFile)
	o.c.ca_pem = o.text(config.CAPEM)
	o.c.client_cert = o.text(config.ClientCert)
	o.c.client_key = o.text(config.ClientKey)
	o.c.server_name = o.text(config.ServerName)
	o.c.connect_timeout_ms = millis(config.ConnectTimeout)
	o.c.request_timeout_ms = millis(config.RequestTimeout)
	o.c.retry_attempts = C.uint32_t(config.RetryAttempts)
	o.c.retry_backoff_ms = millis(config.RetryBackoff)
	o.c.keep_alive = C.bool(config.KeepAlive)
	o.c.keep_alive_period_ms = millis(config.KeepAlivePeriod)
	o.c.max_streams = C.uint32_t(config.MaxStreams)
	o.c.buffer_size = C.size_t(config.BufferSize)
	o.c.pool_size = C.uint32_t(config.PoolSize)
	return o
}

func (o *options) text(value string) *C.char {
	if value == "" {
		return nil
	}
	text := C.CString(value)
	o.texts = append(o.texts, text)
	return text
}

func (o *options) free() {
	for _, text := range o.texts {
		C.free(unsafe.Pointer(text))
	}
	C.free(unsafe.Pointer(o.c))
}

// millis rounds up: what asks for something stays more than nothing. Less than nothing is nothing.
func millis(d time.Duration) C.uint64_t {
	if d <= 0 {
		return 0
	}
	return C.uint64_t(math.Ceil(d.Seconds() * 1000))
}
