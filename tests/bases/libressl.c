/* The names that LibreSSL 2.7 and 2.9 had as functions and OpenSSL 1.1 has as macros or not at all.
 *
 * The Pythons 3.6 and 3.8 that can be had were linked against LibreSSL, which no package holds for
 * musl. With this library in its place they run on OpenSSL 1.1: what is the same in both they find
 * there, through this library's own needs. Compiled without OpenSSL's headers.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct ssl SSL;
typedef struct ssl_ctx SSL_CTX;
typedef struct stack STACK;
typedef struct md_ctx MD_CTX;

/* OpenSSL 1.1.1's; LibreSSL's, which callers have on their stack, is larger. */
typedef struct { const void *md; MD_CTX *contexts[3]; } HMAC_CTX;

extern int OPENSSL_init_ssl(uint64_t, const void *);
extern int OPENSSL_init_crypto(uint64_t, const void *);
extern unsigned long OpenSSL_version_num(void);
extern const char *OpenSSL_version(int);
extern int SSL_in_init(const SSL *);
extern long SSL_CTX_ctrl(SSL_CTX *, int, long, void *);
extern int OPENSSL_sk_num(const STACK *);
extern void *OPENSSL_sk_value(const STACK *, int);
extern void OPENSSL_sk_pop_free(STACK *, void (*)(void *));
extern MD_CTX *EVP_MD_CTX_new(void);
extern void EVP_MD_CTX_free(MD_CTX *);
extern int EVP_MD_CTX_copy_ex(MD_CTX *, const MD_CTX *);
extern int HMAC_CTX_reset(HMAC_CTX *);

enum {
    LOAD_CRYPTO_STRINGS = 0x2,
    ADD_ALL_CIPHERS_AND_DIGESTS = 0x4 | 0x8,
    LOAD_SSL_STRINGS = 0x200000,
    CTRL_SET_MIN_PROTO_VERSION = 123,
    CTRL_SET_MAX_PROTO_VERSION = 124,
    STATE_OK = 0x3,
    STATE_CONNECT_OR_ACCEPT = 0x3000,
};

/* Beginnings. */
int SSL_library_init(void) { return OPENSSL_init_ssl(0, NULL); }
void SSL_load_error_strings(void) { OPENSSL_init_ssl(LOAD_SSL_STRINGS | LOAD_CRYPTO_STRINGS, NULL); }
void ERR_load_crypto_strings(void) { OPENSSL_init_crypto(LOAD_CRYPTO_STRINGS, NULL); }
void OPENSSL_add_all_algorithms_noconf(void) { OPENSSL_init_crypto(ADD_ALL_CIPHERS_AND_DIGESTS, NULL); }
unsigned long SSLeay(void) { return OpenSSL_version_num(); }
const char *SSLeay_version(int what) { return OpenSSL_version(what); }

/* Locks: OpenSSL 1.1 has its own. */
int CRYPTO_num_locks(void) { return 1; }
void CRYPTO_set_locking_callback(void *callback) { (void)callback; }
int CRYPTO_THREADID_set_callback(void *callback) { (void)callback; return 1; }
void CRYPTO_THREADID_set_numeric(void *id, unsigned long value) { (void)id; (void)value; }

/* Connections. */
int SSL_state(const SSL *ssl) { return SSL_in_init(ssl) ? STATE_CONNECT_OR_ACCEPT : STATE_OK; }
int SSL_CTX_set_min_proto_version(SSL_CTX *ctx, uint16_t version)
{
    return (int)SSL_CTX_ctrl(ctx, CTRL_SET_MIN_PROTO_VERSION, version, NULL);
}
int SSL_CTX_set_max_proto_version(SSL_CTX *ctx, uint16_t version)
{
    return (int)SSL_CTX_ctrl(ctx, CTRL_SET_MAX_PROTO_VERSION, version, NULL);
}

/* Stacks and digests. */
int sk_num(const STACK *stack) { return OPENSSL_sk_num(stack); }
void *sk_value(const STACK *stack, int index) { return OPENSSL_sk_value(stack, index); }
void sk_pop_free(STACK *stack, void (*drop)(void *)) { OPENSSL_sk_pop_free(stack, drop); }
MD_CTX *EVP_MD_CTX_create(void) { return EVP_MD_CTX_new(); }
void EVP_MD_CTX_destroy(MD_CTX *ctx) { EVP_MD_CTX_free(ctx); }

/* Keyed digests: the caller's memory holds anything at first. */
void HMAC_CTX_init(HMAC_CTX *ctx)
{
    memset(ctx, 0, sizeof *ctx);
    HMAC_CTX_reset(ctx);
}
void HMAC_CTX_cleanup(HMAC_CTX *ctx)
{
    for (int i = 0; i < 3; i++)
        EVP_MD_CTX_free(ctx->contexts[i]);
    memset(ctx, 0, sizeof *ctx);
}
int HMAC_CTX_copy(HMAC_CTX *to, const HMAC_CTX *from)
{
    HMAC_CTX_init(to);
    to->md = from->md;
    for (int i = 0; i < 3; i++)
        if (!EVP_MD_CTX_copy_ex(to->contexts[i], from->contexts[i]))
            return 0;
    return 1;
}
